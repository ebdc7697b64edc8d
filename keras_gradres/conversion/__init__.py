"""From models with skip connections to models with gradient residuals."""

from keras_gradres.conversion.converting import convert
from keras_gradres.conversion.report import ConversionReport, Sum, conversion_report

__all__ = ["ConversionReport", "Sum", "conversion_report", "convert"]

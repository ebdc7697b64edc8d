"""How the site of the documentation is built; `tox run -e docs` does it.

A guide is a page with code that the build runs. The API comes from the docstrings. A
warning is an error, and so is a reference or a file that is not there.
"""

import ast
import importlib
import pathlib
import re
import shutil

from sphinx.errors import ExtensionError
from sphinx.util import inspect
from sphinx.util.inspect import stringify_signature

import keras_gradres

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent

project = "keras_gradres"
version = release = keras_gradres.__version__
author = "The keras_gradres developers"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = project
html_show_copyright = html_copy_source = html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

# --- the pages ---

myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"

# --- the API ---

nitpicky = True
# No other project's pages are asked for, so what is theirs cannot be linked.
nitpick_ignore_regex = [
    ("py:.*", r"(keras|collections|typing|abc)\..*"),
    ("py:.*", r"(Any|Callable|Sequence|Iterable|Iterator|bool|str|int|float|optional)"),
    # What a rule hands on, and does not look into.
    ("py:class", r"keras_gradres\.pullbacks\.(masks|recording|walk)\..*"),
    ("py:class", r".*\.[A-Z]"),  # Type variables.
]
default_role = "code"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Call arguments", "params_style")]
autosummary_generate = False
python_maximum_signature_line_length = 88

PUBLIC = {
    name: importlib.import_module(name)
    for name in (
        "keras_gradres",
        "keras_gradres.layers",
        "keras_gradres.models",
        "keras_gradres.optimizers",
        "keras_gradres.callbacks",
        "keras_gradres.losses",
        "keras_gradres.pullbacks",
    )
}
SYMBOLS = {
    f"{module}.{symbol}"
    for module, found in PUBLIC.items()
    for symbol in found.__all__
    if f"{module}.{symbol}" not in PUBLIC and symbol != "__version__"
}

COLON = "\ue000"  # In the place of a colon, until Napoleon has passed.


def from_markdown(app, what, name, obj, options, lines):
    """Docstrings have tables and indented code as Markdown has; Sphinx reads another.

    Names of the public API in backticks become links.
    """
    text = "\n".join(lines)
    text = re.sub(r"(?m)(^ *\|.*\n?)+", _table, text)
    # Napoleon wants the lines of a section to be indented.
    text = re.sub(r"(?m)^Example:\n(?=>>>)", ".. rubric:: Example\n\n", text)
    # What is said of a name, below it.
    text = re.sub(r"(?m)^(`[^`\n]+`)\n\n(?=    \S)", r"\1\n", text)
    text = re.sub(r"(?<!`)`(\w+)`(?!`)", lambda m: _link(m, name), text)
    lines[:] = _code_blocks(text.splitlines())
    if what == "property":
        # Napoleon takes what stands before a colon for the type.
        lines[0] = lines[0].replace(":", COLON)


def with_colons(app, what, name, obj, options, lines):
    lines[:] = [line.replace(COLON, ":") for line in lines]


def from_init(app, what, name, obj, options, signature, returns):
    """The arguments of a class of Keras, whose `__new__` takes any."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    found = inspect.signature(obj.__init__, bound_method=True)
    text = stringify_signature(
        found, show_return_annotation=False, unqualified_typehints=True
    )
    return text, None


def _table(found):
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in found[0].splitlines()
    ]
    body = [".. list-table::", "   :header-rows: 1", ""]
    for row in [rows[0], *rows[2:]]:
        for i, cell in enumerate(row):
            body.append(f"   {'-' if i else '* -'} {cell}".replace("   - ", "     - "))
    return "\n".join([*body, ""]) + "\n"


def _link(found, where):
    full = [symbol for symbol in SYMBOLS if symbol.endswith(f".{found[1]}")]
    if not full or where.endswith(f".{found[1]}"):
        return found[0]
    return f":py:obj:`~{min(full, key=len)}`"


def _code_blocks(lines):
    """Marks blocks that follow an empty line and are indented, as code."""
    result, before, inside = [], "", False
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        starts = i > 0 and not lines[i - 1].strip() and line.strip()
        if inside and line.strip() and indent < inside:
            inside = False
        elif starts and not inside and indent >= 4 + _indent(before):
            result += [" " * _indent(before) + ".. code-block:: text", ""]
            inside = indent
        if line.strip() and not inside:
            before = line
            if ">>>" not in line and "list-table" not in line:
                line = _outside_backticks(line)
        result.append(line)
    return result


def _outside_backticks(line):
    """A norm |x| is no substitution, as Sphinx would have it."""
    parts = line.split("`")
    parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
    return "`".join(parts)


def _indent(line):
    return len(line) - len(line.lstrip())


def check_api(app, env):
    """Every public name is on a page."""
    described = set(env.get_domain("py").objects)
    if missing := sorted(SYMBOLS - described):
        raise ExtensionError(f"Public, but on no page of the API: {missing}")


# --- what stands elsewhere in the repository ---

# As pages that are read on a hosting site of the code, too, name it: what it is here.
PAGES = {
    "../benchmarks/README.md": "benchmarks/README.md",
    "../examples": "examples.md",
    "../README.md": "index.md",
}


def copy_studies(app):
    """The index of the studies, and a page with table and picture for each of them."""
    source, target = ROOT / "benchmarks", HERE / "benchmarks"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source / "results", target / "results")
    index = (source / "README.md").read_text()
    pages = "```{toctree}\n:hidden:\n:glob:\n\nresults/*\n```\n"
    (target / "README.md").write_text(f"{index}\n{pages}")


def list_examples(app):
    """A page with the scripts of `examples`, and what they say of themselves."""
    scripts, shared = [], []
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text()
        first = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
        row = f"- {{download}}`{path.name} <../examples/{path.name}>`"
        row += f"<br>{first}".replace("\n", " ")
        (scripts if "__main__" in text else shared).append(row)
    parts = ["# Examples", "Short scripts, from the folder `examples`.", *scripts]
    parts += ["## What they share", *shared]
    (HERE / "examples.md").write_text("\n\n".join(parts) + "\n")


def inside_the_site(app, page, text):
    """Links to other folders, which are right on a hosting site of the code."""
    if "/" in page:  # Of this site alone.
        return
    for path, target in PAGES.items():
        text[0] = re.sub(
            rf"(\]\(|\]: ){re.escape(path)}(?=[)#\s])", rf"\1{target}", text[0]
        )
    text[0] = text[0].replace("../benchmarks/results/", "benchmarks/results/")


def check_paths(app, env):
    """Every file of the code that a page names is there."""
    missing = []
    for page in env.found_docs:
        text = pathlib.Path(env.doc2path(page)).read_text()
        for path in re.findall(r"`((?:keras_gradres|tests|examples)/[\w./]*)`", text):
            if not (ROOT / path).exists():
                missing.append(f"{page}: {path}")
    if missing:
        raise ExtensionError(f"Files that are named, and are not there: {missing}")


def setup(app):
    app.connect("builder-inited", copy_studies)
    app.connect("builder-inited", list_examples)
    app.connect("source-read", inside_the_site)
    app.connect("autodoc-process-docstring", from_markdown, priority=400)
    app.connect("autodoc-process-docstring", with_colons, priority=600)
    app.connect("autodoc-process-signature", from_init)
    app.connect("env-check-consistency", check_api)
    app.connect("env-check-consistency", check_paths)

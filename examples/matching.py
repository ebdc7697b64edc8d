"""The assignment of least cost, on each backend and in a compiled step.

`scipy.optimize.linear_sum_assignment` runs on the host, one sample after the other,
which a compiled step of JAX or TensorFlow cannot call. Here is the same algorithm
(Crouse, "On implementing 2D rectangular assignment algorithms", 2016) with `keras.ops`,
for all samples of a batch at once. The tests compare both.

    for each row i:
        by Dijkstra's algorithm, the shortest path from i to a free column, on which
        rows that have a column may change it; lengths are c - u - v, which is >= 0
        move u and v, so that the lengths of what is taken are 0
        exchange along the path

What is indexed in the textbook is a product with one-hot vectors here: then samples
that are at different columns, or done, go through the same operations.
"""

from keras import ops


def assignment(costs):
    """Gives each row a column of its own, with the least sum of costs.

    Args:
        costs: Of shape (N, rows, columns), finite, with at least one row and at most as
            many as columns.

    Returns:
        A tensor of this shape: 1 where the row is given the column, 0 elsewhere.
    """
    rows, columns = costs.shape[1:]
    if rows > columns:
        raise ValueError(
            "`costs` must have at most as many rows as columns: a detector needs a "
            f"query for each box. Received: costs of shape {tuple(costs.shape)}"
        )

    def add(i, state):
        pairs, u, v = state
        first = ops.one_hot(i, rows, dtype=costs.dtype) + 0 * u
        lowest, shortest, way, scanned, sink = _paths(costs, pairs, u, v, first)
        gain = ops.where(scanned > 0, lowest - shortest, 0)
        u = u + first * lowest + ops.einsum("nrc,nc->nr", pairs, gain)
        return _exchange(pairs, first, way, sink), u, v - gain

    start = (0 * costs, 0 * costs[:, :, 0], 0 * costs[:, 0])
    return ops.fori_loop(0, rows, add, start)[0]


def _paths(costs, pairs, u, v, first):
    """The shortest path from the row `first` to a free column.

    Returns:
        Its length (N, 1); the distances of the columns (N, columns); the row `way` from
        which each was reached, one-hot (N, columns, rows); which were scanned; and the
        free column at the end, one-hot, both (N, columns).
    """
    taken = ops.sum(pairs, axis=1)
    infinite = ops.full_like(v, float("inf"))

    def is_open(row, lowest, shortest, way, scanned, sink):
        return ops.any(ops.sum(sink, axis=1) == 0)

    def scan(row, lowest, shortest, way, scanned, sink):
        going = ops.sum(sink, axis=1, keepdims=True) == 0
        length = ops.einsum("nr,nrc->nc", row, costs - u[:, :, None]) - v
        closer = going & (scanned == 0) & (lowest + length < shortest)
        shortest = ops.where(closer, lowest + length, shortest)
        way = ops.where(closer[:, :, None], row[:, None], way)
        ahead = ops.where(scanned > 0, infinite, shortest)
        nearest = ops.one_hot(ops.argmin(ahead, axis=1), v.shape[1], dtype=v.dtype)
        nearest = ops.where(going, nearest, 0)
        lowest = ops.where(going, ops.min(ahead, axis=1, keepdims=True), lowest)
        row = ops.einsum("nc,nrc->nr", nearest, pairs)
        return (
            row,
            lowest,
            shortest,
            way,
            scanned + nearest,
            nearest * (1 - taken) + sink,
        )

    way = ops.swapaxes(0 * pairs, 1, 2)
    start = (first, 0 * u[:, :1], infinite, way, 0 * v, 0 * v)
    return ops.while_loop(is_open, scan, start)[1:]


def _exchange(pairs, first, way, sink):
    """Gives the rows of the path, from its end to `first`, the columns they are at."""

    def is_open(pairs, column):
        return ops.any(column > 0)

    def back(pairs, column):
        row = ops.einsum("nc,ncr->nr", column, way)
        before = ops.einsum("nr,nrc->nc", row, pairs)
        pairs = pairs + row[:, :, None] * (column - before)[:, None]
        return pairs, before  # The first row has no column before: all zero, the end.

    return ops.while_loop(is_open, back, (pairs, sink))[0]

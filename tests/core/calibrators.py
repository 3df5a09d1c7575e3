"""One record of every kind of calibration map, and Hypothesis strategies for them."""

from hypothesis import strategies as st

from demur.core.maps import binary as binary_maps
from demur.core.maps import multiclass as maps

weight = st.floats(0.0, 4.0)
signed = st.floats(-3.0, 3.0)
rate = st.floats(0.0, 1.0)


def ascending(elements, size):
    return st.lists(elements, min_size=size, max_size=size).map(lambda v: tuple(sorted(v)))


def row(elements, size):
    return st.lists(elements, min_size=size, max_size=size).map(tuple)


def temperatures():
    return st.builds(maps.Temperature, temperature=st.floats(0.02, 50.0))


def isotonics():
    return st.builds(
        binary_maps.Isotonic, score_J=ascending(rate, 4), calibrated_J=ascending(rate, 4)
    )


def binary():
    return st.one_of(
        st.builds(binary_maps.Platt, slope=signed, offset=signed),
        st.builds(binary_maps.Beta, a=weight, b=weight, c=signed),
        isotonics(),
        st.builds(binary_maps.Histogram, edge_J=ascending(rate, 3), value_B=row(rate, 4)),
        st.builds(
            binary_maps.VennAbers,
            score0_J=ascending(rate, 3),
            p0_J=ascending(st.floats(0.0, 0.5), 3),
            score1_J=ascending(rate, 2),
            p1_J=ascending(st.floats(0.5, 1.0), 2),
        ),
    )


def ensembles():
    shares = row(st.floats(0.1, 1.0), 3).map(lambda v: tuple(w / sum(v) for w in v))
    return st.builds(maps.Ensemble, inverse_temperatures=row(weight, 3), weights=shares)


def umnns():
    layers = st.tuples(
        st.tuples(row(signed, 1), row(signed, 1)),
        st.tuples(row(signed, 2), row(signed, 2)),
        row(signed, 2),
    )
    return st.builds(
        maps.Umnn,
        mean=signed,
        deviation=st.floats(0.5, 3.0),
        weights=layers.map(lambda w: (w[0], w[1], (w[2],))),
        offsets=st.tuples(row(signed, 2), row(signed, 2), row(signed, 1)),
    )


def any_map(columns):
    """Every kind of map for so many control tokens."""
    kinds = [
        temperatures(),
        st.builds(maps.Vector, weights=row(weight, columns), offsets=row(signed, columns)),
        st.builds(
            maps.Matrix, weights=row(row(signed, columns), columns), offsets=row(signed, columns)
        ),
        st.builds(
            maps.BetaSoftmax, a=row(weight, columns), b=row(weight, columns), c=row(signed, columns)
        ),
        st.builds(maps.OneVsRest, maps=row(binary(), columns)),
        ensembles(),
        st.builds(maps.PiecewiseLinear, width=st.floats(0.5, 20.0), slopes=row(weight, 5)),
        umnns(),
    ]
    return st.one_of(*kinds, *([st.builds(maps.Pair, map=binary())] if columns == 2 else []))

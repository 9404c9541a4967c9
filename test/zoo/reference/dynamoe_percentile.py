import numpy as np
from common import argmax, gelu, greater, softmax

PERMUTES = ["T", "E0", "E1", "E2", "F"]
SPLITS = ["T"]


def make_inputs(rng, d):
    level = rng.random(d["T"])
    level[: d["T"] // 4] = rng.choice([0.0, 1.0], d["T"] // 4)
    return {"level": level}


def percentile(p, level):
    v, place = np.sort(p), np.float64(np.float32(level)) * (len(p) - 1)
    low = int(np.floor(place))
    return v[low] + (place - low) * (v[min(low + 1, len(v) - 1)] - v[low]), place == low


def reference(a, d):
    T, y = d["T"], a["x"].copy()
    out = {f"routing_{l}": np.zeros((T, d[f"E{l}"])) for l in range(3)} | {"count": np.zeros(T, int)}
    for t in range(T):
        for l in range(3):
            p = softmax(y[t] @ a[f"wr{l}"])
            bound, exact = percentile(p, a["level"][t])
            if exact:  # the bound is one of the probabilities: exactly equal, in every precision
                best = np.flatnonzero((p > bound) & (np.abs(p - bound) > 1e-12))
                greater(np.delete(p, np.argmin(np.abs(p - bound))), bound)
            else:
                best = np.flatnonzero(greater(p, bound))
            if len(best) == 0:
                best = np.array([argmax(p)])
            w = p[best] / p[best].sum()
            out[f"routing_{l}"][t, best] = w
            out["count"][t] += len(best)
            y[t] = y[t] + sum(v * (gelu(y[t] @ a[f"w1_{l}"][e]) @ a[f"w2_{l}"][e]) for e, v in zip(best, w))
    return out | {"y": y}

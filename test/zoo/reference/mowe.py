import numpy as np
from common import ceil_div, gelu

PERMUTES = ["F"]


def make_inputs(rng, dims):
    V = dims["V"]
    return {
        "ids": rng.integers(0, V, dims["T"]), "block": rng.integers(0, dims["EB"], V), "slot": rng.integers(0, dims["ES"], V),
        "bucket": rng.integers(0, dims["NB"], dims["E"]), "num": rng.integers(0, 5, dims["NB"]),
    }


def reference(a, d):
    y, expert, served = a["x"].copy(), np.full(d["T"], -1), np.zeros(d["E"], int)
    for t, x in enumerate(a["x"]):
        e = a["block"][a["ids"][t]] * d["ES"] + a["slot"][a["ids"][t]]
        if served[e] < ceil_div(a["num"][a["bucket"][e]] * d["T"], 16):
            served[e] += 1
            expert[t] = e
            y[t] += gelu(x @ a["w1"][e]) @ a["w2"][e]
    return {"y": y, "expert": expert}

import numpy as np
from common import ceil_div, greater, sigmoid, silu, swiglu, topk

PERMUTES = ["T", "F", "AH"]


def make_inputs(rng, dims):
    return {"modality": (rng.random(dims["T"]) < rng.choice([0.0, 0.3, 0.5, 1.0])).astype(int)}


def reference(a, d):
    T, E, ET = d["T"], d["E"], d["ET"]
    s, active = sigmoid(a["x"] @ a["wr"]), greater(silu(a["x"] @ a["wa1"]) @ a["wa2"], 0.0)
    out = {n: np.zeros((T, d["D"])) for n in ("y", "y_causal")}
    out |= {n: np.zeros((T, E)) for n in ("routing", "routing_causal")}
    for e in range(E):
        group = 0 if e < ET else 1
        own = np.flatnonzero(a["modality"] == group)
        taken = own[topk(s[own, e], ceil_div(len(own), ET if group == 0 else E - ET))]
        out["routing"][taken, e] = s[taken, e]
        for t in own:
            if active[t, e]:
                out["routing_causal"][t, e] = s[t, e]
    for y, r in (("y", "routing"), ("y_causal", "routing_causal")):
        for t, e in np.argwhere(out[r] > 0):
            out[y][t] += out[r][t, e] * swiglu(a["x"][t], a["wg"][e], a["wu"][e], a["wd"][e])
    return out

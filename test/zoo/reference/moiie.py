import numpy as np
from common import softmax, swiglu, topk

PERMUTES = ["T"]
SPLITS = ["T"]


def make_inputs(rng, d):
    return {"modality": rng.integers(0, 2, d["T"])}


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    text, image = list(range(d["ET"])), list(range(d["ET"], d["ET"] + d["EI"]))
    both = list(range(d["ET"] + d["EI"], d["E"]))
    for t, x in enumerate(a["x"]):
        allowed = np.array((image if a["modality"][t] else text) + both)
        p = softmax((x @ a["wr"])[allowed])
        chosen = topk(p, d["K"])
        for i in chosen:
            e = allowed[i]
            routing[t, e] = p[i] / p[chosen].sum()
            y[t] += routing[t, e] * swiglu(x, a["wg"][e], a["wu"][e], a["wd"][e])
    return {"y": y, "routing": routing}

import numpy as np
from common import gelu, softmax, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def make_inputs(rng, d):
    mask = rng.uniform(size=(d["L"], d["V"], d["E"])) < 0.5
    mask[:, np.arange(d["V"]), rng.integers(0, d["E"], d["V"])] = True
    return {"ids": rng.integers(0, d["V"], d["T"]), "mask": mask}


def reference(a, d):
    y, routing = a["x"].copy(), np.zeros((d["L"], d["T"], d["E"]))
    for l in range(d["L"]):
        for t, v in enumerate(y.copy()):
            visible = np.flatnonzero(a["mask"][l, a["ids"][t]])
            p = softmax((v @ a["wr"][l])[visible])
            for i in topk(p, d["K"]):
                e = visible[i]
                routing[l, t, e] = p[i]
                y[t] += p[i] * (gelu(v @ a["w1"][l, e]) @ a["w2"][l, e])
    return {"y": y, "routing": routing}

import numpy as np
from common import gelu, softmax, topk

PERMUTES = ["T", "E", "F"]
SPLITS = ["T"]


def reference(a, d):
    out = {n: np.zeros((d["T"], d["D"])) for n in ("y_comp", "y_router")}
    out |= {n: np.zeros((d["T"], d["E"])) for n in ("routing_comp", "routing_router")}
    for t, x in enumerate(a["x"]):
        o = [gelu(x @ a["w1"][e]) @ a["w2"][e] for e in range(d["E"])]
        norms = np.array([np.sqrt(np.sum(v * v)) for v in o])
        for path, scores in (("comp", norms), ("router", x @ a["wr"])):
            chosen = topk(scores, d["K"])
            for e, w in zip(chosen, softmax(scores[chosen])):
                out[f"routing_{path}"][t, e] = w
                out[f"y_{path}"][t] += w * o[e]
    return out

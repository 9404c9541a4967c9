import numpy as np
from common import gelu, softmax, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    T, D, E, K = d["T"], d["D"], d["E"], d["K"]
    out = {k: np.zeros((T, D)) for k in ("y_comp", "y_router")} | {k: np.zeros((T, E)) for k in ("routing_comp", "routing_router")}
    for t, x in enumerate(a["x"]):
        o = np.stack([gelu(x @ a["w1"][e]) @ a["w2"][e] for e in range(E)])
        for name, s in (("comp", np.log1p(np.exp(o)).mean(axis=1)), ("router", softmax(x @ a["wr"]))):
            chosen = topk(s, K)
            out["routing_" + name][t, chosen] = s[chosen] / s[chosen].sum()
            out["y_" + name][t] = out["routing_" + name][t] @ o
    return out

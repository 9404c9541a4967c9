import numpy as np
from common import ranked, silu, softmax, topk

PERMUTES = ["T", "E", "F"]
SPLITS = ["T"]


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["w_gate"])
        order = topk(p, d["K"])
        ranked(p[order])
        main, aux = order[: d["N_MAIN"]], order[d["N_MAIN"] :]
        routing[t, main], routing[t, aux] = p[main], -p[aux]
        c1, c2, c3 = (p[aux] @ a[name][aux] / p[aux].sum() for name in ("e1", "e2", "e3"))
        for e in main:
            hidden = silu((x * c1) @ a["w_g"][e]) * ((x * c3) @ a["w_u"][e]) * c2
            y[t] += p[e] * (hidden @ a["w_d"][e])
    return {"y": y, "routing": routing}

import numpy as np
from common import gelu, margin, softmax, swiglu, topk

PERMUTES = ["T", "F"]
SPLITS = ["T"]


def reference(a, d):
    E = d["E"]
    y, r0, r1 = a["x"].copy(), np.zeros((d["T"], E)), np.zeros((d["T"], E + 1))
    for t in range(d["T"]):
        p = softmax(y[t] @ a["r0"])
        chosen = topk(p, d["K"])
        r0[t, chosen] = p[chosen] / p[chosen].sum()
        y[t] = y[t] + sum(r0[t, e] * swiglu(y[t], a["g0"][e], a["u0"][e], a["d0"][e]) for e in chosen)
        p = softmax(np.concatenate([y[t] @ a["r1"], y[t] @ a["rnew"]]))
        chosen = topk(p, d["K"])
        c = p + gelu(p @ a["m1"]) @ a["m2"]
        if abs(c[chosen].sum()) < 0.3:
            margin(0.5e-4)  # a small divisor would magnify rounding: other inputs
        r1[t, chosen] = c[chosen] / c[chosen].sum()
        out = 0
        for e in chosen:
            w = (a["gn"], a["un"], a["dn"]) if e == E else (a["g1"][e], a["u1"][e], a["d1"][e])
            out = out + r1[t, e] * swiglu(y[t], *w)
        y[t] = y[t] + out
    return {"y": y, "routing_0": r0, "routing_1": r1}

import numpy as np
from common import softmax, swiglu, topk

PERMUTES = ["T", "E", "KS"]
SPLITS = ["T"]


def reference(a, d):
    h, routing = a["u"].copy(), np.zeros((d["T"], d["E"]))
    for t, v in enumerate(a["u"]):
        s = softmax(a["cent"] @ v)
        for i in range(d["KS"]):
            h[t] += swiglu(v, a["ws1"][i], a["ws3"][i], a["ws2"][i])
        for e in topk(s, d["K"]):
            routing[t, e] = s[e]
            h[t] += s[e] * swiglu(v, a["w1"][e], a["w3"][e], a["w2"][e])
    return {"h": h, "routing": routing}

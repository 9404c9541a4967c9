import numpy as np
from common import relu, softmax, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    for t, x in enumerate(a["x"]):
        logits = x @ a["w_gate"]
        chosen = topk(logits, d["K"])
        routing[t, chosen] = softmax(logits[chosen])
        for e in chosen:
            y[t] += routing[t, e] * ((relu(x @ a["w_g"][e]) * relu(x @ a["w_u"][e])) @ a["w_d"][e])
    return {"y": y, "routing": routing}

import numpy as np
from common import gelu, sigmoid, softmax, topk

PERMUTES = ["T", "E"]


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing = np.zeros((T, d["D"])), np.zeros((T, E))
    z = a["x"] @ a["w_gate"]
    scores = 0.5 * softmax(z) + 0.5 * (2 / E) * sigmoid(z)
    for flat in topk(scores.reshape(-1), T * d["K"]):
        t, e = flat // E, flat % E
        routing[t, e] = scores[t, e]
        y[t] += scores[t, e] * (gelu(a["x"][t] @ a["w1"][e]) @ a["w2"][e])
    return {"y": y, "routing": routing}

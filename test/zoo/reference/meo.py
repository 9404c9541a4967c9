import numpy as np
from common import gelu, relu, sigmoid, softmax, topk

PERMUTES = ["B", "T", "E"]
SIZES = [{"T": 1}, {"T": 2}, {"T": 7}, {"T": 13}, {"T": 31}]


def reference(a, d):
    y, routing = np.zeros((d["B"], d["T"], d["DO"])), np.zeros((d["B"], d["E"]))
    for b, x in enumerate(a["x"]):
        z = x.mean(axis=0) @ a["wg"]
        chosen = topk(z, d["K"])
        routing[b, chosen] = softmax(z[chosen])
        w = sum(routing[b, e] * a["w"][e] for e in chosen)
        bias = sum(routing[b, e] * a["bias"][e] for e in chosen)
        y[b] = gelu(x @ w + bias)
    return {"y_seq": y, "y_tok": sigmoid(relu(a["x"] @ a["wdn"]) @ a["wup"]) * y, "routing": routing}

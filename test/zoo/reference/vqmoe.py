import numpy as np
from common import argmax, relu, softmax, topk

PERMUTES = ["T", "F"]
SPLITS = ["T"]


def layer_norm(v):
    return (v - v.mean()) / np.sqrt(v.var() + 1e-5)


def reference(a, d):
    y, routing, code = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"])), np.zeros(d["T"], int)
    for t, x in enumerate(a["x"]):
        z = x @ a["wr"]
        chosen = topk(z, d["K"])
        routing[t, chosen] = softmax(z[chosen])
        own = sum(routing[t, e] * (relu(x @ a["w1"][e]) @ a["w2"][e]) for e in chosen)
        code[t] = argmax([-np.sum((x - c) ** 2) for c in a["cb"]])
        e = code[t] % d["E"]
        named = layer_norm(relu(layer_norm(a["cb"][code[t]]) @ a["w1"][e]) @ a["w2"][e])
        p = softmax(x @ a["wp"])
        y[t] = p[0] * own + p[1] * named
    return {"y": y, "routing": routing, "code": code}

import numpy as np
from common import argmax, ceil_div, relu, softmax

PERMUTES = ["E"]


def reference(a, d):
    T, E = d["T"], d["E"]
    capacity = ceil_div(5 * T, 4 * E)
    y, routing = a["x"].copy(), np.zeros((T, E))
    chosen, served, P = np.zeros(E), np.zeros(E, int), np.zeros(E)
    for t, v in enumerate(a["x"]):
        p = softmax(v @ a["wr"])
        i = argmax(p)
        chosen[i] += 1
        P += p
        if served[i] < capacity:
            served[i] += 1
            routing[t, i] = p[i]
            y[t] += p[i] * (relu(v @ a["w1"][i]) @ a["w2"][i])
    aux = 0.01 * E * np.sum(chosen / T * P / T) if T else 0.0
    return {"y": y, "routing": routing, "aux": np.array([aux])}

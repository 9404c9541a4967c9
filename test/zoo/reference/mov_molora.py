import numpy as np
from common import softmax

PERMUTES = ["T", "E", "R"]
SPLITS = ["T"]


def reference(a, d):
    base = a["x"] @ a["w0"]
    s, r = softmax(a["x"] @ a["w_gate_v"]), softmax(a["x"] @ a["w_gate_l"])
    y_molora = base.copy()
    for t, x in enumerate(a["x"]):
        for e in range(d["E"]):
            y_molora[t] += r[t, e] * ((x @ a["a"][e]) @ a["b"][e])
    return {"y_mov": base * (s @ a["vec"]), "routing_mov": s, "y_molora": y_molora, "routing_molora": r}

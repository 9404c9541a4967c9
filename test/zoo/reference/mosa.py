import numpy as np
from common import rope, sigmoid, softmax, topk

PERMUTES = ["H"]


def reference(a, d):
    T, H = d["T"], d["H"]
    y, routing = np.zeros((T, d["D"])), np.zeros((T, H))
    r = sigmoid(a["x"] @ a["w_r"])
    for h in range(H):
        chosen = sorted(topk(r[:, h], min(d["K"], T)))
        keys, values = [], []
        for t in chosen:
            routing[t, h] = r[t, h]
            keys.append(rope(a["x"][t] @ a["w_k"][h], t))
            values.append(a["x"][t] @ a["w_v"][h])
            scores = np.array(keys) @ rope(a["x"][t] @ a["w_q"][h], t) / np.sqrt(d["HD"])
            y[t] += r[t, h] * ((softmax(scores) @ np.array(values)) @ a["w_o"][h])
    return {"y": y, "routing": routing}

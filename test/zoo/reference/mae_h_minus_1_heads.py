import numpy as np
from common import softmax

PERMUTES = ["T"]
SIZES = [{"T": 1}, {"T": 2}, {"T": 7}, {"T": 13}, {"T": 31}]


def reference(a, d):
    T, H, x = d["T"], d["H"], a["x"]
    gate = softmax(np.tanh(x.mean(axis=0) @ a["wa"] + a["ba"]) @ a["wb"])
    heads = []
    for j in range(H):
        q, k, v = x @ a["wq"][j], x @ a["wk"][j], x @ a["wv"][j]
        heads.append(softmax(q @ k.T / np.sqrt(d["HD"]), axis=1) @ v @ a["wo"][j])
    y = np.zeros((T, d["D"]))
    for i in range(H):
        y += gate[i] * H / (H - 1) * sum(heads[j] for j in range(H) if j != i)
    return {"y": y, "gate": gate, "headw": H / (H - 1) * (1 - gate)}

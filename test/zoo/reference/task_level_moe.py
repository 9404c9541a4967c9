import numpy as np
from common import argmax, gelu, relu, softmax

PERMUTES = ["T", "M"]


def layer_norm(v, g, b):
    return (v - v.mean(axis=1, keepdims=True)) / np.sqrt(v.var(axis=1, keepdims=True) + 1e-5) * g + b


def reference(a, d):
    L, M, H, HD, y = d["L"], d["M"], d["H"], d["HD"], a["x"]
    r = relu(a["task"] @ a["ra"] + a["rb"])
    routing, prob = np.zeros((L, M)), np.zeros((L, M))
    for l in range(L):
        z = r @ a["rc"][l]
        m = argmax(z)
        routing[l, m], prob[l] = 1, softmax(z)
        if d["T"] == 0:
            continue
        q, k, v = y @ a["wq"][l, m], y @ a["wk"][l, m], y @ a["wv"][l, m]
        heads = []
        for i in range(H):
            c = slice(i * HD, (i + 1) * HD)
            heads.append(softmax(q[:, c] @ k[:, c].T / np.sqrt(HD), axis=1) @ v[:, c])
        h = layer_norm(y + np.concatenate(heads, axis=1) @ a["wo"][l, m], a["g1"][l, m], a["b1"][l, m])
        y = layer_norm(h + gelu(h @ a["w1"][l, m]) @ a["w2"][l, m], a["g2"][l, m], a["b2"][l, m])
    return {"y": y, "routing": routing, "prob": prob}

import numpy as np
from common import relu, softmax, topk

PERMUTES = ["T", "F"]


def layer(x, mix, a, d):
    p, y, routing = mix @ softmax(x @ a["wr"], axis=1), x.copy(), np.zeros((d["T"], d["E"]))
    for t in range(d["T"]):
        for e in topk(p[t], d["K"]):
            routing[t, e] = p[t, e]
            y[t] += p[t, e] * (relu(x[t] @ a["w1"][e]) @ a["w2"][e])
    return y, routing


def reference(a, d):
    x, H, HD = a["x"], d["H"], d["HD"]
    y_sim, routing_sim = layer(x, softmax((x @ a["m"]) @ x.T / 0.5, axis=1), a, d)
    q, k, v = x @ a["wq"], x @ a["wk"], x @ a["wv"]
    columns = [slice(h * HD, (h + 1) * HD) for h in range(H)]
    p = [softmax(q[:, c] @ k[:, c].T / np.sqrt(HD), axis=1) for c in columns]
    u = x + np.concatenate([p[h] @ v[:, c] for h, c in enumerate(columns)], axis=1) @ a["wo"]
    y_attn, routing_attn = layer(u, sum(p) / H, a, d)
    return {"y_sim": y_sim, "routing_sim": routing_sim, "y_attn": y_attn, "routing_attn": routing_attn}

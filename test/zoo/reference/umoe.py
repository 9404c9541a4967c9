import numpy as np
from common import gelu, rms_norm, softmax, topk

PERMUTES = ["E"]
EPS = 1e-6


def reference(a, d):
    T, E = d["T"], d["E"]
    n = rms_norm(a["x"], a["g1"], EPS)
    keys, h = n @ a["w_k"], a["x"].copy()
    attention, ffn = np.zeros((T, E)), np.zeros((T, E))

    def expert(e, v):
        return gelu(v @ a["w1"][e]) @ a["w2"][e]

    for t in range(T):
        p = softmax(n[t] @ a["w_ga"])
        for e in topk(p, d["K"]):
            attention[t, e] = p[e]
            q = n[t] @ a["w_q"] + (n[t] @ a["q_a"][e]) @ a["q_b"][e]
            mix = softmax(keys[: t + 1] @ q / np.sqrt(d["HD"])) @ n[: t + 1]
            h[t] += p[e] * expert(e, mix)
    y = h.copy()
    for t in range(T):
        m = rms_norm(h[t], a["g2"], EPS)
        p = softmax(m @ a["w_gf"])
        for e in topk(p, d["K"]):
            ffn[t, e] = p[e]
            y[t] += p[e] * expert(e, m)
    return {"y": y, "routing_attn": attention, "routing_ffn": ffn}

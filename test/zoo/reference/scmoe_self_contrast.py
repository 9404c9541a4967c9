import numpy as np
from common import argmax, at_least, rms_norm, softmax, swiglu, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]
ALPHA, BETA, MASKED, EPS = 0.1, 0.5, -1e9, 1e-6


def reference(a, d):
    T, V, L = d["T"], d["V"], d["L"]

    def run(x, first, routing):
        h = x.copy()
        for l in range(L):
            n = rms_norm(h, a["g_norm"][l], EPS)
            logits = n @ a["w_gate"][l]
            chosen = topk(logits, 2)
            if first:
                topk(logits, 1)  # which of the two is the second one is a decision here
            chosen = chosen[first:]
            routing[l, chosen] = softmax(logits[chosen])
            for e in chosen:
                h += routing[l, e] * swiglu(n, a["w_g"][l, e], a["w_u"][l, e], a["w_d"][l, e])
        return rms_norm(h, a["g_out"], EPS) @ a["w_out"]

    scores, token = np.zeros((T, V)), np.zeros(T, int)
    strong, weak = np.zeros((L, T, d["E"])), np.zeros((L, T, d["E"]))
    for t, x in enumerate(a["x"]):
        z, z_weak = run(x, 0, strong[:, t]), run(x, 1, weak[:, t])
        p = softmax(z)
        plausible = at_least(p, ALPHA * p.max())
        scores[t] = np.where(plausible, (1 + BETA) * z - BETA * z_weak, MASKED)
        token[t] = argmax(scores[t])
    return {"scores": scores, "next": token, "routing_strong": strong, "routing_weak": weak}

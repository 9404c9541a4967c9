import numpy as np
from common import argmax, rms_norm, softmax, swiglu

PERMUTES = ["F", "FS"]


def make_inputs(rng, d):
    return {"tokens": rng.integers(0, d["V"], d["T"])}


def reference(a, d):
    T = d["T"]
    e = a["r_emb"][a["tokens"]]
    q, k, v = e @ a["r_q"], e @ a["r_k"], e @ a["r_v"]
    y, ids, logits = a["x"].copy(), np.zeros(T, int), np.zeros((T, d["E"]))
    for t in range(T):
        p = softmax(k[: t + 1] @ q[t] / np.sqrt(d["DR"]))
        logits[t] = (e[t] + p @ v[: t + 1]) @ a["r_o"]
        ids[t] = i = argmax(logits[t])
        for l in range(d["L"]):
            n = rms_norm(y[t], a["g_norm"][l], 1e-6)
            y[t] = y[t] + swiglu(n, a["w_g"][l, i], a["w_u"][l, i], a["w_d"][l, i])
            y[t] += swiglu(n, a["s_g"][l], a["s_u"][l], a["s_d"][l])
    return {"y": y, "expert_id": ids, "router_logits": logits}

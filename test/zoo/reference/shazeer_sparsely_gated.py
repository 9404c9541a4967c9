import numpy as np
from common import relu, softmax, topk

PERMUTES = ["T"]
SPLITS = ["T"]


def noisy(x, gate, noise_gate, noise, k):
    h = x @ gate + noise * np.log1p(np.exp(x @ noise_gate))
    chosen, out = topk(h, k), np.zeros(len(h))
    out[chosen] = softmax(h[chosen])
    return out


def reference(a, d):
    T, D, G, M = d["T"], d["D"], d["G"], d["M"]
    y, y_h, routing, routing_h = np.zeros((T, D)), np.zeros((T, D)), np.zeros((T, d["E"])), np.zeros((T, G, M))
    for t, x in enumerate(a["x"]):
        routing[t] = noisy(x, a["w_g"], a["w_n"], a["noise"][t], d["K"])
        primary = noisy(x, a["w_gp"], a["w_np"], a["noise_p"][t], d["KP"])
        for g in range(G):
            routing_h[t, g] = primary[g] * noisy(x, a["w_gs"][g], a["w_ns"][g], a["noise_s"][t, g], d["KS"])
            for m in range(M):
                out = relu(x @ a["w1"][g, m]) @ a["w2"][g, m]
                y[t] += routing[t, g * M + m] * out
                y_h[t] += routing_h[t, g, m] * out
    return {"y": y, "routing": routing, "y_h": y_h, "routing_h": routing_h}

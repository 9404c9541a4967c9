import numpy as np
from common import gelu, greater, softmax, topk

PERMUTES = ["B", "F"]
SPLITS = ["B"]
SIZES = [{"B": 0}, {"B": 1}, {"B": 3}]


def sinkhorn(l):
    S, E = l.shape
    m = np.exp(l - l.max(axis=1, keepdims=True))
    for _ in range(5):
        m = m / m.sum(axis=1, keepdims=True)
        m = m * (S / E) / m.sum(axis=0, keepdims=True)
    return m


def token_choice(a, k, capacity):
    g, taken = np.zeros(a.shape), np.zeros(a.shape[1], int)
    order = [topk(row, k) for row in a]
    for r in range(k):
        for t, chosen in enumerate(order):
            if taken[chosen[r]] < capacity:
                taken[chosen[r]] += 1
                g[t, chosen[r]] = a[t, chosen[r]]
    return g


def expert_choice(a, capacity):
    g = np.zeros(a.shape)
    for e in range(a.shape[1]):
        chosen = topk(a[:, e], capacity)
        g[chosen, e] = a[chosen, e]
    return g


def transport(l, capacity):
    (S, E), dual = l.shape, np.zeros(len(l))

    def project():
        g = np.zeros(l.shape)
        for e in range(E):
            v = l[:, e] + dual
            kept = topk(v, capacity)
            low, high = v[kept].min() - S, v[kept].max()
            for _ in range(200):
                theta = (low + high) / 2
                low, high = (theta, high) if np.maximum(0, v[kept] - theta).sum() > S / E else (low, theta)
            greater(v[kept], theta)
            g[kept, e] = np.maximum(0, v[kept] - theta)
        return g

    for _ in range(4):
        dual = dual + 0.25 * (1 - project().sum(axis=1))
    return project()


def reference(a, d):
    B, S, E, C, P = d["B"], d["S"], d["E"], d["C"], d["P"]
    names = ["y_sm_token", "y_sk_token", "y_sm_expert", "y_sk_expert", "y_sparse_expert", "y_soft"]
    out = {n: np.zeros((B, S, d["D"])) for n in names} | {"routing": np.zeros((5, B, S, E)), "soft_combine": np.zeros((B, S, E, P))}

    def expert(v, e):
        return gelu(v @ a["w1"][e]) @ a["w2"][e]

    for b, x in enumerate(a["x"]):
        l = x @ a["wr"]
        psm, psk = softmax(l, axis=1), sinkhorn(l)
        gs = [token_choice(psm, d["K"], C), token_choice(psk, d["K"], C), expert_choice(psm, C), expert_choice(psk, C), transport(l, C)]
        for n, g in enumerate(gs):
            out["routing"][n, b] = g
            out[names[n]][b] = sum(g[:, e : e + 1] * expert(x, e) for e in range(E))
        z = np.einsum("td,dep->tep", x, a["phi"])
        dispatch = softmax(z, axis=0)
        out["soft_combine"][b] = softmax(z.reshape(S, E * P), axis=1).reshape(S, E, P)
        for e in range(E):
            for p in range(P):
                out["y_soft"][b] += np.outer(out["soft_combine"][b][:, e, p], expert(dispatch[:, e, p] @ x, e))
    return out

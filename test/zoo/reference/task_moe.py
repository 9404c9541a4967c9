import numpy as np
from common import relu, softmax, topk

PERMUTES = ["T", "E", "F"]
SIZES = [{"T": 1}, {"T": 2}, {"T": 7}, {"T": 13}, {"T": 31}]


def make_inputs(rng, d):
    return {"task": rng.integers(0, d["NT"], d["B"])}


def gate(z, k):
    p, out = softmax(z), np.zeros(len(z))
    chosen = topk(p, k)
    out[chosen] = p[chosen] / p[chosen].sum()
    return out


def layer(x, weights, a):
    return x + sum(weights[e] * (relu(x @ a["w1"][e]) @ a["w2"][e]) for e in np.flatnonzero(weights))


def reference(a, d):
    x, k = a["x"], d["K"]
    task = np.array([gate(a["emb"][i] @ a["wt"], k) for i in a["task"]])
    sent = np.array([gate(s.mean(axis=0) @ a["wr"], k) for s in x])
    tok = np.array([[gate(v @ a["wr"], k) for v in s] for s in x])
    out = {"routing_task": task, "routing_sent": sent, "routing_tok": tok}
    out["y_task"] = np.array([[layer(v, task[b], a) for v in s] for b, s in enumerate(x)])
    out["y_sent"] = np.array([[layer(v, sent[b], a) for v in s] for b, s in enumerate(x)])
    out["y_tok"] = np.array([[layer(v, tok[b, t], a) for t, v in enumerate(s)] for b, s in enumerate(x)])
    return out

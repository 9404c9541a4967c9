import numpy as np
from common import greater, relu, sigmoid, softmax

TEMP = 2.0
PERMUTES = ["T", "NC"]
SPLITS = ["T"]


def make_inputs(rng, dims):
    # Gates around zero, so that samples leave at every exit.
    return {"wu": rng.standard_normal((dims["L1"], dims["NU"])) * 0.6, "bu": rng.standard_normal(dims["L1"]) * 0.3}


def entropy(p):
    return -np.sum(p * np.log(p))


def reference(a, d):
    T, L = d["T"], d["L"]
    out = {"logits": np.zeros((T, d["NC"])), "exit": np.zeros(T, int), "gate": np.zeros(T)}
    for t, h in enumerate(a["x"]):
        for i in range(L):
            h = h + relu(h @ a["wb"][i] + a["bb"][i])
            c = h @ a["wc"][i] + a["bc"][i]
            gate = 1.0
            if i < L - 1:
                p = softmax(c)
                u = [np.max(p), entropy(p), entropy(softmax(c / TEMP)), np.log(np.sum(np.exp(c)))]
                gate = sigmoid(u @ a["wu"][i] + a["bu"][i])
            if i == L - 1 or greater(gate, 0.5):
                out["logits"][t], out["exit"][t], out["gate"][t] = c, i, gate
                break
    return out

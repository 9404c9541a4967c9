import numpy as np
from common import topk

PERMUTES = ["T"]
SPLITS = ["T"]
SIZES = [{"T": 0}, {"T": 1}, {"T": 2}, {"T": 7}, {"T": 13}]


def make_inputs(rng, d):
    return {"slot": rng.integers(0, d["NV"], (d["HH"], d["NN"]))}


def reference(a, d):
    T, H, R, N = d["T"], d["H"], d["R"], d["N"]
    y, routing = a["x"].copy(), np.zeros((T, d["HH"], d["NN"]))
    for t, x in enumerate(a["x"]):
        row = np.array([[[(x @ a["wqr"][p, r]) @ a["kr"][p, r, i] for i in range(N)] for r in range(R)] for p in range(H)])
        col = np.array([[[(x @ a["wqc"][q, r]) @ a["kc"][q, r, j] for j in range(N)] for r in range(R)] for q in range(H)])
        rows = [topk(a["rvec"][p] @ row[p], d["MR"]) for p in range(H)]
        cols = [topk(a["cvec"][q] @ col[q], d["MR"]) for q in range(H)]
        cells = []
        for p in range(H):
            for q in range(H):
                for i in sorted(rows[p]):
                    for j in sorted(cols[q]):
                        score = row[p][:, i] @ a["core"][p, q] @ col[q][:, j]
                        cells.append(((p * H + q) * d["NN"] + i * N + j, score))
        cells.sort()
        xp, acc = x @ a["wpre"], np.zeros(d["DV"])
        for n in topk([score for _, score in cells], d["M"]):
            cell, score = cells[n]
            pair, place = divmod(cell, d["NN"])
            routing[t, pair, place] = score
            m = a["slot"][pair, place]
            acc += score * (xp @ a["u"][m]) * a["v"][m]
        y[t] += acc @ a["wexp"]
    return {"y": y, "routing": routing}

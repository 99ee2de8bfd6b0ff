"""Run the federation in Flower's simulation, and print what came of it beside the same rounds without Flower."""

import argparse
import json

import torch

from recmtl_lessons.training.flower import error_for_new_users, in_process, shop_clients
from recmtl_lessons.training.flower.loopback import Loopback

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m recmtl_lessons.training.flower", description=__doc__)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=30)
    chosen = vars(parser.parse_args())
    with Loopback(simulation=True) as flower:
        flower.submit(chosen)
        found = flower.result(timeout=600)
    same = in_process(flower.settings).fit(chosen["rounds"], label="").model(0)
    own = same.state_dict()
    gaps = [float((torch.tensor(value) - own[name]).abs().max()) for name, value in found["parameters"].items()]
    before, after = found["errors"]
    kept = {
        **chosen,
        "answers": sum(len(this["answered"]) for this in found["rounds"]),
        "error before": round(before, 3),
        "error after": round(after, 3),
        "error without Flower": round(error_for_new_users(same, shop_clients(flower.settings)[1]), 3),
        "largest gap of a parameter": float(f"{max(gaps):.1e}"),
        "seconds": round(found["seconds"]),
    }
    print(json.dumps(kept))

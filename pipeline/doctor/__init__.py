"""What the settings' run needs and this machine has: `pipeline doctor`. Nothing is downloaded, converted or written."""

from pathlib import Path

from pipeline.doctor.check import Check
from pipeline.doctor.disk import check_disk, check_shared_memory
from pipeline.doctor.encoder import check_encoder
from pipeline.doctor.hub import Hub
from pipeline.doctor.llm import check_llm, check_speaking
from pipeline.doctor.machine import check_devices, check_extras, check_gpu_memory, check_torchvision, check_versions
from pipeline.doctor.names import check_names
from pipeline.doctor.sources import check_sources
from stages.params import Params

__all__ = ["Check", "doctor"]


def doctor(params: Params, cache: Path, results: Path) -> list[Check]:
    """Look at versions, devices, models, sources and disks; one finding a line, faults are what the run would miss."""
    hub = Hub()
    elsewhere = all(params.of(name).encoder_name == params.encoder for name in params.stored)
    encoder = check_encoder(params.encoder, hub, elsewhere=elsewhere)
    llm = check_llm(params, cache, hub)
    speaking = check_speaking(params, cache, hub)
    downloads = {"encoder": encoder.download, "llm": llm.download, "speaking": speaking.download if speaking else None}
    convert = llm.convert + (speaking.convert if speaking else 0)
    return [
        *check_versions(llm_in_process=llm.needed and params.prompts.server.url is None),
        *check_extras(),
        *check_names(),
        *check_devices(),
        check_torchvision(),
        encoder.check,
        llm.check,
        *([speaking.check] if speaking else []),
        *(check_gpu_memory(params.prompts.llm, llm.weights) if llm.needed else []),
        *check_sources(params, cache),
        *check_disk(params, cache, results, hub.cache, width=encoder.width, downloads=downloads, convert=convert),
        check_shared_memory(params, side=encoder.side),
    ]

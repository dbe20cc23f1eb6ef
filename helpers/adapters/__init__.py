"""LoRAs, from folder to folder.

What a folder below loras/ holds (`folders`: AdapterFolder; `parts`), which model it belongs to (`bases`),
what is known of each (`listing`), attaching LoRAs to a model and switching them (`attaching`), the proof that
one works (`proving`, `fingerprint`), how much it adds where (`norms`), merging (`merging`), the forms that
other programs take (`exporting`, `gguf`, `webui_parameters`), and the card that says what was measured
(`card`, made of `facts`, `results` and `curves`). `python -m helpers.adapters` is its command line.
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.adapters.attaching import activate as activate
    from helpers.adapters.attaching import attach_adapter as attach_adapter
    from helpers.adapters.attaching import detach_adapter as detach_adapter
    from helpers.adapters.attaching import list_attached as list_attached
    from helpers.adapters.attaching import set_strength as set_strength
    from helpers.adapters.attaching import switch_adapter as switch_adapter
    from helpers.adapters.bases import check_base as check_base
    from helpers.adapters.bases import find_base as find_base
    from helpers.adapters.card import add_to_run as add_to_run
    from helpers.adapters.card import write_card as write_card
    from helpers.adapters.exporting import build_vllm_command as build_vllm_command
    from helpers.adapters.exporting import export_adapter as export_adapter
    from helpers.adapters.fingerprint import compare_fingerprint as compare_fingerprint
    from helpers.adapters.fingerprint import take_fingerprint as take_fingerprint
    from helpers.adapters.folders import AdapterFolder as AdapterFolder
    from helpers.adapters.folders import find_adapter as find_adapter
    from helpers.adapters.folders import list_adapters as list_adapters
    from helpers.adapters.folders import list_folders as list_folders
    from helpers.adapters.folders import list_shipped as list_shipped
    from helpers.adapters.folders import loras_folder as loras_folder
    from helpers.adapters.folders import name_output as name_output
    from helpers.adapters.gguf import export_gguf as export_gguf
    from helpers.adapters.listing import LoraFacts as LoraFacts
    from helpers.adapters.listing import describe_adapter as describe_adapter
    from helpers.adapters.merging import merge_adapter as merge_adapter
    from helpers.adapters.norms import measure_norms as measure_norms
    from helpers.adapters.norms import measure_relative_norms as measure_relative_norms
    from helpers.adapters.proving import Finding as Finding
    from helpers.adapters.proving import answer_both_ways as answer_both_ways
    from helpers.adapters.proving import measure_change as measure_change
    from helpers.adapters.proving import prove as prove
    from helpers.adapters.tensors import read_tensors as read_tensors
    from helpers.adapters.webui_parameters import copy_settings as copy_settings

__getattr__, __dir__, __all__ = export_lazily(__name__)

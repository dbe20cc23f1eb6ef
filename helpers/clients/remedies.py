"""What the user can do when the kit's server or a WebUI fails.

The WebUI of 2023 says nothing about most of its errors, so these remedies name the usual causes.
"""

from helpers.common.http import REMEDIES

SERVER_REMEDIES: dict[int | str, str] = {
    **REMEDIES,
    401: "Give the server's key: api_key, and admin_key for the models and LoRAs of today's WebUI.",
    403: "Check the port: another program may be listening there (on a Mac, AirPlay uses 5000).",
    404: "Check the address: today's WebUI has no raw API (/api/v1), that of 2023 has no /v1/internal.",
    500: "Look at the server's output for the cause; often no model is loaded, or it cannot be loaded.",
    "timeout": "Ask for fewer tokens, or give a longer timeout.",
    "unreachable": "Start one with --api, and check its port.",
    "not JSON": "Check the fields, and that a model is loaded: the WebUI of 2023 replies like this if not.",
}

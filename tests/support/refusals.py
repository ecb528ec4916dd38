"""Checks that schemathesis makes of every answer besides its own ones; it imports this file ($SCHEMATHESIS_HOOKS)."""

import re

import schemathesis

OF_THE_NETWORK = re.compile(r"this network has|needs a second seed|ranges rise")
"""Why a request that the description allows may be refused: it does not know the network's classes and layers."""


@schemathesis.check
def refusals_are_sentences(ctx, response, case):
    if 400 <= response.status_code < 500:
        detail = response.json()["detail"]
        assert isinstance(detail, str) and detail.endswith("."), detail


@schemathesis.check
def what_the_description_allows_is_answered(ctx, response, case):
    if case.meta.generation.mode.is_positive and response.status_code != 200:
        assert response.status_code == 422 and OF_THE_NETWORK.search(response.json()["detail"]), response.json()

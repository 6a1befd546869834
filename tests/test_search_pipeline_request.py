"""Tests of search.pipeline.request: the arguments of a search, told twice, mean the same."""

from inspect import signature

import search
from search.pipeline.request import request_of


def test_a_request_has_the_arguments_of_a_run_and_its_defaults() -> None:
    """Only the folder is not part of the request: it observes."""
    arguments = dict(signature(search.run).parameters)
    del arguments["run"]
    assert dict(signature(request_of).parameters) == arguments

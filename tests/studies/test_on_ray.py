"""The same study gives the same numbers on both engines."""

import pytest

from ppl_vae.engines import RayEngine
from ppl_vae.studies import open_study

from .small import carry_out
from .test_study import same

pytest.importorskip("ray")


def test_a_study_on_ray_is_the_study_in_process(tmp_path):
    carry_out(tmp_path / "here")
    carry_out(tmp_path / "there", engine=RayEngine(cpus=1))
    assert same(tmp_path / "here", tmp_path / "there")
    assert open_study(tmp_path / "there").manifest["engine"] == "RayEngine"
    assert {cell.attempts for cell in open_study(tmp_path / "there").cells} == {1}

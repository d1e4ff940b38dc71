"""The script of the page on scale runs, and two processes of it are one."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from fjx import data

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "_scale"


def start(folder, number, **variables):
    command = [sys.executable, PAGE / "train.py", f"--data={folder}/data", "--rounds=10"]
    command += [f"--table={folder}/table{number}", "--clients=5"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **variables}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def scores(output):
    stopped, rounds, told = output.splitlines()[-1].split(" ", 2)
    assert (stopped, rounds) == ("finished", "10")
    return json.loads(told.replace("'", '"'))


@pytest.mark.slow
def test_two_processes_started_as_in_a_job_score_what_one_scores(tmp_path):
    data.save(data.digits(num_clients=20, alpha=0.3), tmp_path / "data")
    alone = scores(start(tmp_path, "alone").communicate(timeout=120)[0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    job = {"PROCESSES": "2", "COORDINATOR": address}
    running = [start(tmp_path, "two", JOB_COMPLETION_INDEX=str(i), **job) for i in range(2)]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert outputs[1] == ""  # the first speaks for all
    assert scores(outputs[0]) == pytest.approx(alone, rel=1e-4)


def test_the_job_of_kubernetes_agrees_with_itself():
    manifest = (PAGE / "train.yaml").read_text()
    numbers = re.findall(r"(?:completions|parallelism): (\d+)", manifest)
    numbers += re.findall(r'PROCESSES\n\s+value: "(\d+)"', manifest)
    assert len(numbers) == 3
    assert len(set(numbers)) == 1
    service, job = re.findall(r"metadata:\n  name: (\w+)", manifest)
    assert re.search(rf"value: {job}-0\.{service}:\d+", manifest)
    assert f"subdomain: {service}" in manifest
    assert f"job-name: {job}" in manifest
    names = set(re.findall(r"environ\[\"(\w+)\"\]", (PAGE / "train.py").read_text()))
    assert names == {"PROCESSES", "COORDINATOR", "JOB_COMPLETION_INDEX"}

"""A server started from the command line, for as long as it takes to listen."""

import signal
import subprocess


def until_serving(command, patience_s, **how):
    """Start a server, wait until it listens, end it; what it printed. how: of subprocess.Popen."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how
    ) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if "serving" in line:
                process.send_signal(signal.SIGTERM)
        assert process.wait(patience_s) == 0, "".join(said)
    return "".join(said)

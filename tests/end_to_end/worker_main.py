"""The other side of `worker.Worker`: reads requests, runs the functions asked for, writes answers."""

from __future__ import annotations

import json
import os
import sys
import traceback


def main() -> None:
    # Answers go to the pipe alone: whatever libraries print is sent to the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from tests.end_to_end import adapter_functions, engine_functions, layer_functions, media_functions, memory_functions

    rooms = (engine_functions, adapter_functions, media_functions, layer_functions, memory_functions)
    functions = {name: function for room in rooms for name, function in vars(room).items()}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            value = functions[request["function"]](**request["arguments"])
            answer = json.dumps({"value": value})
        except Exception:
            traceback.print_exc()
            answer = json.dumps({"error": traceback.format_exc()})
        answers.write(answer + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

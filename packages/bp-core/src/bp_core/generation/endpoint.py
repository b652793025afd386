"""An OpenAI-compatible endpoint as a model that answers: chat completions, whole or streamed.

- The key comes from the environment variable that is named; it stands in no file, no error and no log.
- A seed goes with every request; whether it makes sampling repeatable is the server's affair.
- What the protocol has no field for (top-k, min-p, repetition penalty) is sent as llama.cpp, vLLM and Ollama spell it, and
  only where it is set: a server that does not know it may refuse the request.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from bp_merge.common import BpError

from bp_core.generation.prompts import Answer, Prompt
from bp_core.settings.groups.generation import GenerationSettings

PARALLEL = 4  # requests under way
TIMEOUT = 600.0  # seconds between two bytes of an answer


class Endpoint:
    """One server.

    Args:
        url: its root, `…/v1`.
        model: the model's name there; the first that the server lists unless given.
        key: sent as bearer token.
        key_env: name of the environment variable that holds the key instead.
        parallel: requests under way.

    Raises:
        BpError: `CONFIG_ENDPOINT_KEY` for a variable that is not set; `RUNTIME_ENDPOINT_FAILED` where the server gives no
            list of models.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key: str = "",
        key_env: str | None = None,
        parallel: int = PARALLEL,
    ) -> None:
        import httpx

        if key_env:
            key = os.environ.get(key_env, "")
            if not key:
                raise BpError(
                    "CONFIG_ENDPOINT_KEY",
                    f"the endpoint's key is not set: {key_env}",
                    f"set the variable {key_env} to the key",
                )
        self.url, self.parallel = url.rstrip("/"), parallel
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            # a proxy of the environment is not asked for what runs on this machine
            near = httpx.URL(self.url).host in ("localhost", "127.0.0.1", "::1")
            self._http = httpx.Client(headers=headers, timeout=TIMEOUT, trust_env=not near)
        except httpx.InvalidURL as error:
            raise self._failed(error) from None
        try:
            self.model = model or self._first()
        except BaseException:
            self.close()
            raise
        self.name = f"{self.model} at {self.url}"

    def _first(self) -> str:
        import httpx

        try:
            answer = self._http.get(f"{self.url}/models", timeout=30)
            answer.raise_for_status()
            return str(answer.json()["data"][0]["id"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise self._failed(error) from None

    def answer(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[list[Answer]]:
        """`settings.num` answers to each prompt, in the order of the prompts.

        Raises:
            BpError: `RUNTIME_ENDPOINT_FAILED`.
        """
        asked = [(p, n) for p in prompts for n in range(settings.num)]
        with concurrent.futures.ThreadPoolExecutor(max_workers=self.parallel) as pool:
            found = list(pool.map(lambda one: self._ask(one[0], one[1], settings), asked))
        return [found[i : i + settings.num] for i in range(0, len(found), settings.num)]

    def _ask(self, prompt: Prompt, number: int, settings: GenerationSettings) -> Answer:
        import httpx

        try:
            answer = self._http.post(
                f"{self.url}/chat/completions", json=self._body(prompt, number, settings)
            )
            answer.raise_for_status()
            told = answer.json()
            choice, used = told["choices"][0], told.get("usage") or {}
            message = choice["message"]
            return Answer(
                str(message.get("content") or "").strip(),
                str(choice.get("finish_reason") or ""),
                int(used.get("completion_tokens") or 0),
                int(used.get("prompt_tokens") or 0),
                tuple(message.get("tool_calls") or ()),
            )
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._failed(error) from None

    def stream(self, prompt: Prompt, settings: GenerationSettings) -> Iterator[str | Answer]:
        """One answer piece by piece, and at the end the whole; closing the iterator hangs up.

        Raises:
            BpError: `RUNTIME_ENDPOINT_FAILED`.
        """
        import httpx

        body = {**self._body(prompt, 0, settings), "stream": True}
        parts: list[str] = []
        finish, count = "", 0
        try:
            with self._http.stream("POST", f"{self.url}/chat/completions", json=body) as answer:
                answer.raise_for_status()
                for line in answer.iter_lines():
                    if not line.startswith("data:") or line[5:].strip() == "[DONE]":
                        continue
                    choice = json.loads(line[5:])["choices"]
                    if not choice:
                        continue
                    finish = choice[0].get("finish_reason") or finish
                    if new := choice[0].get("delta", {}).get("content"):
                        parts.append(new)
                        count += 1
                        yield new
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._failed(error) from None
        yield Answer("".join(parts).strip(), finish, count)

    def _body(self, prompt: Prompt, number: int, settings: GenerationSettings) -> dict[str, Any]:
        s = settings
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [wire(turn.to_message()) for turn in prompt.asked(s.system)],
            "max_tokens": s.max_new_tokens,
            "temperature": s.temperature,
            "seed": s.seed + number,
        }
        if s.temperature:
            body["top_p"] = s.top_p
        if prompt.tools:
            body["tools"] = [dict(tool) for tool in prompt.tools]
        if s.stop:
            body["stop"] = list(s.stop)
        more = {"top_k": s.top_k, "min_p": s.min_p}
        body |= {name: value for name, value in more.items() if value}
        if s.repetition_penalty != 1:
            # llama.cpp and Ollama read the first, vLLM the second
            body |= {"repeat_penalty": s.repetition_penalty, "repetition_penalty": s.repetition_penalty}
        return body

    def _failed(self, error: Exception) -> BpError:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        what = f"HTTP {status}" if status else type(error).__name__
        return BpError(
            "RUNTIME_ENDPOINT_FAILED",
            f"the endpoint {self.url} gave no answer: {what}",
            f"see whether it answers: curl {self.url}/models",
            retryable=status is None or status == 429 or status >= 500,
        )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def wire(message: dict[str, Any]) -> dict[str, Any]:
    """A chat message as the protocol has it: arguments of tool calls as JSON text, and calls with an id."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    told = []
    for number, call in enumerate(calls):
        function = dict(call["function"])
        if not isinstance(function.get("arguments"), str):
            function["arguments"] = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
        told.append({"id": f"call_{number}", "type": "function", **call, "function": function})
    return {**message, "tool_calls": told}

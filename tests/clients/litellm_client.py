"""litellm against a server: prints what it got as JSON. Argument: the address."""

import json
import sys

import litellm

BASE = {"api_base": sys.argv[1], "api_key": "none", "seed": 5, "max_tokens": 12, "num_retries": 0}
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "Was it good?"}]}]

found = {}
whole = litellm.completion("openai/tiny:cbs-2-3-4", messages=MESSAGES, **BASE)
found["chat"] = whole.choices[0].message.content
found["usage"] = whole.usage.completion_tokens
stream = litellm.completion("openai/tiny:cbs-2-3-4", messages=MESSAGES, stream=True, **BASE)
found["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
text = litellm.text_completion(prompt="I really", model="text-completion-openai/tiny:cbs-2-3-4", **BASE)
found["completion"] = text.choices[0].text
try:
    litellm.completion("openai/tiny", messages=MESSAGES, response_format={"type": "json_object"}, **BASE)
except litellm.BadRequestError as error:
    found["refused"] = [error.status_code, "response_format" if "response_format" in str(error) else None]
print(json.dumps(found))

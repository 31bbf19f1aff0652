"""OpenAI's SDK for Python through the sidecar."""

import unittest

import openai
from harness import APP_KEY, Stack


class Chat(unittest.TestCase):
    def test_an_answer_is_billed_and_charged_alike(self) -> None:
        with Stack() as stack:
            client = openai.OpenAI(base_url=stack.url + "/v1", api_key=APP_KEY)
            client.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "Hello"}])
            stack.assert_agrees(calls=1)

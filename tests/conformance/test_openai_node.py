"""OpenAI's SDK for Node through the sidecar: `openai.test.mjs` does the calls, and the books are compared here."""

import os
import subprocess
import unittest
from pathlib import Path

from harness import Stack, budget, policy


class Node(unittest.TestCase):
    def test_the_sdk_is_none_the_wiser_and_everything_it_did_is_charged(self) -> None:
        with Stack() as stack, Stack(policy([budget(usd="0.000001")])) as empty:
            urls = {"SPENDKEEPER_URL": stack.url, "SPENDKEEPER_EMPTY_URL": empty.url, "PROVIDER_URL": stack.provider_url}
            script = Path(__file__).with_name("openai.test.mjs")
            ended = subprocess.run(
                ["node", "--test", "--test-reporter=spec", str(script)],
                env={**os.environ, **urls},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
            self.assertGreater(len(stack.assert_agrees()), 20)
            self.assertEqual(empty.bill().total.calls, 0)

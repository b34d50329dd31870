"""mini-swe-agent, whose model is litellm's, with a client of wspool's: lines in a file, then it submits."""

import json
import os
import sys
import tempfile

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["MSWEA_COST_TRACKING"] = "ignore_errors"
os.environ["MSWEA_SILENT_STARTUP"] = "1"
os.environ["MSWEA_GLOBAL_CONFIG_DIR"] = tempfile.mkdtemp()

from litellm.llms.custom_httpx.http_handler import HTTPHandler
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_response_model import LitellmResponseModel

import wspool.http

client = HTTPHandler(client=wspool.http.client())


class PooledModel(LitellmResponseModel):
    """Its settings are written down, and a client cannot be: it goes with each call."""

    def _query(self, messages, **kwargs):
        return super()._query(messages, client=client, **kwargs)


model = PooledModel(
    model_name="openai/gpt-5.2", model_kwargs={"api_base": os.environ["BASE_URL"], "api_key": "sk-test"}
)
environment = LocalEnvironment(cwd=os.environ["FOLDER"])
agent = DefaultAgent(model, environment, system_template="Be brief.", instance_template="{{task}}")
result = agent.run("write lines")
sys.stdout.write("\n" + json.dumps([result["exit_status"]]) + "\n")

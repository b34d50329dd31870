"""A Django view, in one file: threads share a pool that is opened at the first request of a process.

So it is opened behind the fork of a server that forks. `python django_view.py` asks itself once.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, JsonResponse
from django.test import Client
from django.urls import path
from endpoint import MODEL, endpoint

import wspool

settings.configure(
    DEBUG=False, SECRET_KEY="of an example", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["testserver"]
)
django.setup()


@functools.cache
def pool(url: str) -> wspool.blocking.Pool:
    """The pool of this process. It ends with the process."""
    opened = wspool.blocking.open_pool(url, policy=wspool.PoolPolicy(max_size=8))
    return opened.__enter__()


def ask(request: HttpRequest) -> JsonResponse:
    """Answer a question, or say that the model is busy."""
    try:
        with pool(settings.MODEL_URL).conversation(model=MODEL, store=False) as conversation:
            response = conversation.respond(request.GET["question"])
    except wspool.WsPoolError as error:
        return JsonResponse({"error": str(error)}, status=wspool.http_status(error))
    return JsonResponse({"answer": response.output_text, "tokens": response.usage["total_tokens"]})


urlpatterns = [path("ask", ask)]
application = WSGIHandler()

if __name__ == "__main__":
    with endpoint() as where:
        settings.MODEL_URL = where.url
        questions = [f"Question {number}" for number in range(4)]
        with ThreadPoolExecutor(4) as threads:
            answers = threads.map(lambda text: Client().get("/ask", {"question": text}).json(), questions)
            for answer in answers:
                print(answer["answer"])

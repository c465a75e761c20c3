"""The OpenAI front end of one engine: HTTP in, `Submit` out, `Tokens` in, text out.

It keeps each open request, so that it can submit it again after a crash behind it.

`request_decoding` and `request_settings` say what was asked (pure); `generation` and `text_stream` turn tokens into text;
`open_requests` and `coordinator_link` talk to the coordinator; `answers` and `response_bodies` talk to the client.
"""

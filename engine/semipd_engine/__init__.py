"""The engine: memory server, coordinator, lanes and OpenAI front end over one copy of weights and one paged KV cache."""

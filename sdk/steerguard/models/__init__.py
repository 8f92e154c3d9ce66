"""What is known of Hugging Face models: decoder blocks, facts, chat prompts, captured states. No hooks stay behind."""

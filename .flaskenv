# Read by the flask command. The pair is for the demo on this machine only: a real one belongs in
# the environment of the server, or in .env, and in no repository.
FLASK_APP=example_app
FLASK_ANTS_DR_USERNAME=ants
FLASK_ANTS_DR_PASSWORD=demo

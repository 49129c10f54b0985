# Read by the flask command. The pair is for the demo on this machine only: a real one belongs in
# the environment of the server, or in .env, and in no repository.
FLASK_APP=example_app
FLASK_ANTS_DR_USERNAME=ants
FLASK_ANTS_DR_PASSWORD=demo

# The local ANTS of the demo, which has the same pair.
FLASK_ANTS_DR_API_URL=http://127.0.0.1:${FLASK_RUN_PORT:-5000}/ants
FLASK_ANTS_DR_API_USERNAME=${FLASK_ANTS_DR_USERNAME}
FLASK_ANTS_DR_API_PASSWORD=${FLASK_ANTS_DR_PASSWORD}

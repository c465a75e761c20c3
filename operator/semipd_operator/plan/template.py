"""The pod template that a service asks for, by its digest.

The digest is an annotation of the workload, since in the template it would restart every pod once. A Deployment gives its
annotations on to the ReplicaSet of the template that it has at the time, so each revision says which template it is.
"""

from __future__ import annotations

import hashlib
import json

from semipd_core.cluster.template_rollout import Template
from semipd_operator.plan.effective import Effective
from semipd_operator.plan.pod import pod_template


def wanted_template(effective: Effective) -> Template:
    text = json.dumps(pod_template(effective), sort_keys=True)
    return Template(
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
        image=effective.image,
        model=effective.spec.model.uri,
    )
